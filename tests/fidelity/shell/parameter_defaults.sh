unset u; e=
echo "${u-a}" "${u:-b}" "${e-c}" "${e:-d}" "${u+e}" "${e+f}" "${e:+g}"
echo "${u:=h}" "$u"
(: "${z?is missing}"); echo $?
(: "${e:?}"); echo $?
