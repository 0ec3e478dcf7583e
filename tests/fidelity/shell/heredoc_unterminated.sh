cat <<END
text
