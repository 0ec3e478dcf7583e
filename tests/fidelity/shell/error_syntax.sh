# fidelity: skip=context -- syntax errors in a context name eval
echo before
if true; then
echo inside
