import sys

print("python script for {{ params.who }}")
print("input:", sys.stdin.read().strip())
