int run_db(void); int run_db(void) { return 0; }
