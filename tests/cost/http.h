/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_COST_HTTP_H
#define CHAPPE_COST_HTTP_H
void heads(int n); /* so many heads of requests */
#endif
