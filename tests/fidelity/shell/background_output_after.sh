(sleep 0.02; echo late) &
echo early; wait
