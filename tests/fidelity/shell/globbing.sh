mkdir g && cd g && touch a.txt b.txt .hidden 'sp ace'
echo *; echo *.txt; echo [ab].txt; echo nothing*; echo .h*
shopt -s dotglob; echo *
shopt -s nullglob; echo nothing* end
shopt -s failglob; echo nothing*; echo "status $?"
cd .. && rm -r g
