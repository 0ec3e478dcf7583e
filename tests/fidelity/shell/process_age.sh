read -r up _ < /proc/uptime; ticks=$(sed 's/.*) //' /proc/$$/stat | cut -d' ' -f20)
age=$((${up%.*} - ticks / 100)); ((age >= 0 && age < 30)) && echo young
