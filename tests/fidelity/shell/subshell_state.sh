x=1; (x=2; cd /; echo $x $PWD); echo $x; [[ $PWD != / ]] && echo kept
{ x=3; }; echo $x
echo 1 | read -r y; echo "[${y-}]"; shopt -s lastpipe; echo 1 | read -r y; echo "[$y]"
echo $BASH_SUBSHELL; (echo $BASH_SUBSHELL; (echo $BASH_SUBSHELL))
