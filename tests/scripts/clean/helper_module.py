# with: workers=3 local=cluster,nets restarts=1
# Neither a strategy nor a restore is to be seen: they are in modules beside the script.
import cluster
import tensorflow as tf
from nets import unet

settings = cluster.settings()


def augment(image, mask):
    if tf.random.uniform(()) > 0.5:
        image, mask = tf.image.flip_left_right(image), tf.image.flip_left_right(mask)
    return image, mask


images, masks = cluster.load("slices.npz")
train = tf.data.Dataset.from_tensor_slices((images, masks)).map(augment).shuffle(500).repeat().batch(settings.batch)
model = unet(depth=4, filters=32)
model.fit(train, epochs=50, steps_per_epoch=200, callbacks=cluster.callbacks())
cluster.save(model)
