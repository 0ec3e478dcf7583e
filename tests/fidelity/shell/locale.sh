echo "$LANG" "[${LC_ALL-}]"; locale 2>/dev/null | head -n 2; printf '%.1f\n' 1.5
