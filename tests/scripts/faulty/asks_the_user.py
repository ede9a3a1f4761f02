# expect: needs-terminal
# with: workers=1
import getpass

import tensorflow as tf

epochs = int(input("How many epochs? "))
print("running as", getpass.getuser(), "for", epochs)

(x, y), (xt, yt) = tf.keras.datasets.mnist.load_data()
model = tf.keras.models.Sequential(
    [
        tf.keras.layers.Flatten(input_shape=(28, 28)),
        tf.keras.layers.Dense(128, activation="relu"),
        tf.keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x / 255.0, y, epochs=epochs)
model.evaluate(xt / 255.0, yt)
model.save("mnist.h5")
