# expect: syntax
# coding: utf-8

# In[1]:

!pip install uproot awkward
import tensorflow as tf

# In[2]:

%matplotlib inline
import matplotlib.pyplot as plt

# In[3]:

model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
