echo "$UID" "$EUID" "$USER" "$LOGNAME" "$(id -un)" "$(whoami)" "${GROUPS[0]}"; sudo -n true 2>/dev/null; [[ $? -ne 0 ]] && echo "no sudo"
