exec 7> file7; echo seven > /dev/fd/7; exec 7>&-; cat file7; rm file7
echo out >> /dev/fd/1; echo err >> /dev/fd/2
