import json

settings = json.load(open("/home/somebody/settings.json"))
