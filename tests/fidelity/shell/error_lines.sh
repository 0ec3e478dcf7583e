nosuchcommand

f() {
  nosuchcommand2
}
f
./nosuchfile
echo $?
