import socket
import sys
import time

NAME = "{{ ti.task_id }}/{{ ti.map_index }}/{{ run_id }}"
PORT = int("{{ params.port }}")
LINES = int("{{ params.lines }}")


def tell(word):
    with socket.create_connection(("127.0.0.1", PORT)) as connection:
        connection.sendall(f"{word} {NAME}\n".encode())


tell("began")
for n in range(1, LINES + 1):
    print("line", n, flush=True)
    if n % 20 == 0:
        print("err", n, file=sys.stderr, flush=True)
    time.sleep(0.2)
tell("ended")
