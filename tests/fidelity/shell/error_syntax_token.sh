# fidelity: skip=context -- syntax errors in a context name eval
echo before
echo a ) b
