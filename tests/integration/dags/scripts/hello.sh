echo "shell script for {{ params.who }}"
cat
