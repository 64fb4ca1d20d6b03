/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_VERSION_H
#define CHAPPE_VERSION_H
/* CHAPPE_VERSION comes from the build (project() in CMakeLists.txt); the other is the Synapse release whose
 * answers are the model. */
#ifndef CHAPPE_VERSION
#define CHAPPE_VERSION "0.1.0"
#endif
#define SYNAPSE_VERSION_LIKE "1.157.1"
#endif
