echo visible
exit 4
this is ( not shell syntax
