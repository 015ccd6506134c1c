tell() { bash -c "echo '$1 {{ ti.task_id }}/{{ ti.map_index }}/{{ run_id }}' > /dev/tcp/127.0.0.1/{{ params.port }}"; }
tell began
i=0
while [ $i -lt {{ params.lines }} ]; do
    i=$((i + 1))
    echo line $i
    [ $((i % 20)) -ne 0 ] || echo err $i >&2
    sleep 0.2
done
tell ended
