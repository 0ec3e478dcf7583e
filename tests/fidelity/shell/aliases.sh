alias hi='echo aliased'; hi; shopt -s expand_aliases; alias hi='echo aliased'
hi there; unalias hi; hi; echo $?
