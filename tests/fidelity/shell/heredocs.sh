x=5
cat <<END
x is $x and $((x + 1)) and $(echo cmd) \$x
END
cat <<'END'
x is $x \$x
END
cat <<-END
	tab removed
	END
cat <<A; cat <<B
a
A
b
B
