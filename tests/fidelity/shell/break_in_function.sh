f() { break; echo "in f"; }
for i in 1 2; do f; echo "i $i"; done
f; echo end
