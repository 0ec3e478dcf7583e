shopt
