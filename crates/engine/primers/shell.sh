# Run in the shell that a template keeps warm, and again in each VM that is kept hot.
words=(the quick brown fox); declare -A table=([a]=1 [b]=2)
count() { local n=0 word; for word in "$@"; do n=$((n + ${#word})); done; echo "$n"; }
text="$(count "${words[@]}") ${words[1]^^} ${table[b]} ${text:-none} ${words[*]/o/0} $((2 ** 10 % 7))"
if [[ $text =~ ([0-9]+) && -d /tmp ]]; then printf '%s %05d\n' "${BASH_REMATCH[1]}" 7; fi
case $text in *QUICK*) echo "${text#* }";; *) echo no;; esac
i=0; while ((i < 3)); do i=$((i + 1)); done
printf 'b\na\n' | sort | head -n 1
ls / | grep -c . ; cat <<END | tr a-z A-Z | sed 's/X/Y/'
ready $i
END
(exit 3) || echo "status $?"
echo ready
printf 'for word in "$@"; do echo "${word##*/}"; done\n' > /tmp/primer.sh; bash /tmp/primer.sh a/ready; rm /tmp/primer.sh
