exec {fd}> vf; [[ $fd -ge 10 ]] && echo high; echo text >&"$fd"; exec {fd}>&-; cat vf; rm vf
