import sys

print("no signal above the background")
sys.exit(4)
