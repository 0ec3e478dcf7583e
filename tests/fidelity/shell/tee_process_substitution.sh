echo hello | tee >(tr a-z A-Z > up) > low; sleep 0.1; wait; cat low up; rm low up
