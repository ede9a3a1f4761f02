import urllib.request

urllib.request.urlopen("http://s3.invalid/bucket")
