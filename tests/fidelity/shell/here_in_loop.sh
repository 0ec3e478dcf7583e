while read -r a b; do cat <<END
$a -> $b
END
done <<< $'1 x\n2 y'
