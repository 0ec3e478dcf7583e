trap 'echo got USR1' USR1
kill -USR1 $$
trap 'echo got TERM' TERM
kill -TERM $$
trap -p USR1
trap '' INT; kill -INT $$; echo survived
trap - USR1; trap -p | sort
