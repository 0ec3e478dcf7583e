cat < /nonexistent; echo $?
echo x > /nonexistent/file; echo $?
: < /nonexistent || echo failed
