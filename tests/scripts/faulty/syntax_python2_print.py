# expect: syntax
import tensorflow as tf

EPOCHS = 10
(x_train, y_train), (x_test, y_test) = tf.keras.datasets.mnist.load_data()
print "training on", len(x_train), "images"

model = tf.keras.models.Sequential()
model.add(tf.keras.layers.Flatten(input_shape=(28, 28)))
model.add(tf.keras.layers.Dense(10, activation="softmax"))
model.compile(loss="sparse_categorical_crossentropy", optimizer="sgd")
model.fit(x_train, y_train, epochs=EPOCHS)
