# Makes an erofs of the tree of the second word, as the file of the third: the same bytes for the same packages.
language=$1 tree=$2 layer=$3
# Any time will do, as long as it is always the same: compiled files name that of their source.
time=1600000000
find "$tree" -exec touch --no-dereference --date=@$time {} + || exit
if [[ $language == python ]]; then
    # Tests of packages take as long to compile as the packages, and are not imported.
    setpriv --reuid=1000 --regid=1000 --clear-groups \
        python3 -m compileall -qq -x '/tests?/' --invalidation-mode timestamp -s "$tree" -p / "$tree/home"
    find "$tree" -name __pycache__ -exec touch --no-dereference --date=@$time {} +
    find "$tree" -newermt @$time -exec touch --no-dereference --date=@$time {} +
fi
mkfs.erofs --quiet -x-1 -T$time -U00000000-0000-0000-0000-000000000000 "$layer" "$tree" >&2 && chmod 644 "$layer"
