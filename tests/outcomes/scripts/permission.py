import os

os.setuid(65534)
open("/root/model.keras", "w")
