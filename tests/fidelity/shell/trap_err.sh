trap 'echo "error $? on line $LINENO"' ERR
true
false
(exit 5)
if false; then :; fi
false || true
echo end
