/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_COST_COUNT_H
#define CHAPPE_COST_COUNT_H
/* What is between the two is counted by callgrind under that name, for so many devices. */
void count_begin(void);
void count_end(const char *name, int devices);
#endif
