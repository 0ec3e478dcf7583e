(exit 9)
exit
