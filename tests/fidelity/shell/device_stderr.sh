echo to-err > /dev/stderr
echo to-out > /dev/stdout
echo both | tee /dev/stderr
