mkdir -p t/u; touch t/a.c t/u/b.c; find t -name '*.c' | sort; find t -delete; ls t; echo $?
