# fidelity: stdin=a\nb\n\nc
mapfile -t lines; echo "${#lines[@]}" "${lines[3]}"
