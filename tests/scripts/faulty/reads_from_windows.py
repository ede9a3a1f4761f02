# expect: home-path
# with: workers=1 on=kubernetes
import numpy as np
import tensorflow as tf

images = np.load(r"C:\Users\maria\Documents\thesis\images.npy")
labels = np.load(r"C:\Users\maria\Documents\thesis\labels.npy")

model = tf.keras.applications.ResNet50(weights=None, input_shape=images.shape[1:], classes=3)
model.compile(optimizer=tf.keras.optimizers.Adam(1e-4), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(images, labels, batch_size=8, epochs=30, validation_split=0.2)
model.save("resnet.keras")
