echo {a,b}{1,2} {1..5} {5..1} {01..03} {a..e..2} {1..10..3} x{,y}z {a} {a,{b,c}}
echo "{a,b}" pre{$HOME,x}post | sed "s:$HOME:HOME:"
