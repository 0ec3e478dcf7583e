printf 'true\nnosuchcommand\n' > lib.sh; . ./lib.sh; rm lib.sh; echo $?
