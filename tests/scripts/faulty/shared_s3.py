# expect: shared-path
# with: on=kubernetes workers=8
import tensorflow as tf

OUT = "s3://models/energy"


def main():
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    per_worker = 32
    data = (
        tf.data.TFRecordDataset(tf.io.gfile.glob("s3://data/energy/*.tfrecord"))
        .map(lambda r: tf.io.parse_tensor(r, tf.float32))
        .map(lambda t: (t[:-1], t[-1]))
        .repeat()
        .batch(per_worker * strategy.num_replicas_in_sync)
    )
    with strategy.scope():
        model = tf.keras.Sequential([tf.keras.layers.Dense(64, "relu"), tf.keras.layers.Dense(1)])
        model.compile(loss="mae", optimizer="adam")
    model.fit(data, epochs=10, steps_per_epoch=200)
    model.export(OUT + "/latest")


if __name__ == "__main__":
    main()
