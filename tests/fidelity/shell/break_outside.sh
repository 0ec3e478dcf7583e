# fidelity: skip=context -- a stray break ends the exec of a context with a message
break
echo "after break $?"
continue
echo "after continue $?"
for i in 1 2 3; do [[ $i == 2 ]] && break; echo $i; done
echo end
