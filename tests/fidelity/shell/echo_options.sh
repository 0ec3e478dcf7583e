echo -n no; echo; echo -e 'a\tb\c'; echo; echo -E 'a\tb'; echo -- x; shopt -s xpg_echo; echo 'a\tb'
