now=$(date +%s); e=$EPOCHSECONDS; ((e - now >= -1 && e - now <= 1)) && echo epoch
r=${EPOCHREALTIME/./}; d=$(date +%s%6N); ((r <= d && d - r < 2000000)) && echo realtime
touch f; m=$(stat -c %Y f); ((m >= now - 1 && m <= now + 2)) && echo mtime; rm f
printf -v p '%(%s)T' -1; ((p - now <= 1)) && echo printf
printf -v s '%(%s)T' -2; ((now - s >= 0 && now - s < 30)) && echo started
