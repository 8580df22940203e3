/* Every op that the host lowers, in small programs compared with the interpreter: tiles in both
 * layouts, sizes that fill no vector, tensors with gaps, several shapes of register tiles.
 *
 * A body is the inside of one task. `_M_`, `_N_` and `_K_` stand for sizes; %x is a tile [M, N] of
 * which lm rows and ln columns are live.
 */
#include "tests/numeric/tile_interpreter.h"

#include <check.h>

static const char head[] =
    "kernel t\n"
    "  tensor x f32[2] tensor w f32[2] tensor a f32[2] tensor b f32[2] tensor u f32[1]\n"
    "  tensor v f32[1] tensor e f32[3] tensor i i32[2] tensor at i32[1] tensor h f16[2]\n"
    "  tensor g bf16[2] tensor l i64[2] tensor c u8[2] tensor o bool[2]\n"
    "  tensor y f32[2] written tensor y2 f32[2] written tensor yt f32[2] written\n"
    "  tensor p f32[2] written tensor r f32[1] written tensor s f32[1] written\n"
    "  tensor ye f32[3] written tensor yi i32[2] written tensor ri i32[1] written\n"
    "  tensor si i32[1] written tensor yh f16[2] written tensor yg bf16[2] written\n"
    "  tensor yl i64[2] written tensor yc u8[2] written\n"
    "  tensor yo bool[2] written tensor ro bool[1] written tensor so bool[1] written\n"
    "  param lm int param ln int param n int param f float param on bool\n"
    "  site tensor 4 dim 0 site tensor 5 dim 1\n"
    "{\n"
    "  %tasks: index = scalar => 1L\n"
    "  parallel (%task) < (%tasks) {\n"
    "    %z: index = scalar => 0L\n"
    "    %one: index = scalar => 1L\n"
    "    %lm: index = scalar => long(lm)\n"
    "    %ln: index = scalar => long(ln)\n"
    "    %all: index = scalar => 4096L\n"
    "    %zero: f32 = scalar => 0.0\n"
    "    %two: f32 = scalar => 2.0\n"
    "    %rows: i32[_M_,1] = iota %z\n"
    "    %columns: i32[1,_N_] = iota %z\n";
static const char load_panel[] =
    "    %x: f32[_M_,_N_] = load x[%z, %z] rows 0 columns 1 live %lm, %ln\n";
static const char load_row_major[] =
    "    %x0: f32[_M_,_N_] = load x[%z, %z] rows 0 columns 1 live %lm, %ln\n"
    "    %x: f32[_M_,_N_] = scan max axis 0 %x0\n";
static const char tail[] = "  }\n}\n";

#define STORE_Y "store %y to y[%z, %z] rows 0 columns 1 live %lm, %ln\n"
#define STORE_YI "store %yi to yi[%z, %z] rows 0 columns 1 live %lm, %ln\n"
#define STORE_R "store %r to r[%z] rows 0 live %lm, %one\n"
#define STORE_S "store %s to s[%z] columns 0 live %one, %ln\n"
#define LOAD_W "%w: f32[_M_,_N_] = load w[%z, %z] rows 0 columns 1 live %lm, %ln\n"
#define LOAD_U "%u: f32[_M_,1] = load u[%z] rows 0 live %lm, %one\n"
#define LOAD_V "%v: f32[1,_N_] = load v[%z] columns 0 live %one, %ln\n"
#define LOAD_I "%i: i32[_M_,_N_] = load i[%z, %z] rows 0 columns 1 live %lm, %ln\n"

static const char *const bodies[] = {
    /* maps */
    "%y: f32[_M_,_N_] = map %x => $0 * 3.0 - f\n" STORE_Y,
    LOAD_W LOAD_U LOAD_V "%y: f32[_M_,_N_] = map %x, %w, %u, %v, %two, %rows, %columns => "
                         "select($5 <= $6, $0 * $1 + $2, $3 - $4) + float($5)\n" STORE_Y,
    LOAD_U LOAD_V "%y: f32[_M_,_N_] = map %u, %v => $0 * $1\n" STORE_Y,
    "%yi: i32[_M_,_N_] = map %rows, %columns => ($0 * 7 + $1) % 5\n" STORE_YI,
    "%t: f32[_M_,_N_] = splat %two\n%y: f32[_M_,_N_] = map %t, %x => $0 + $1\n" STORE_Y
    "store %t to y2[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    LOAD_W "%m: bool[_M_,_N_] = map %x, %w => $0 < $1\n"
           "%y: f32[_M_,_N_] = map %m, %x => select($0, $1, 1.0)\n" STORE_Y
           "store %m to yo[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    /* reductions */
    "%r: f32[_M_,1] = reduce sum axis 1 %x\n%y: f32[_M_,_N_] = map %x, %r => $0 - $1\n" STORE_R
        STORE_Y,
    "%r: f32[_M_,1] = reduce max axis 1 %x\n" STORE_R
    "%s: f32[1,_N_] = reduce sum axis 0 %x\n" STORE_S,
    "%r: f32[_M_,1] = reduce min axis 1 %x\n" STORE_R
    "%s: f32[1,_N_] = reduce max axis 0 %x\n" STORE_S
    "%y: f32[_M_,_N_] = map %x, %s, %r => $0 * $1 + $2\n" STORE_Y,
    "%s: f32[1,_N_] = reduce min axis 0 %x\n" STORE_S "%q: f32[1,1] = reduce max axis 1 %s\n"
    "%y: f32[_M_,_N_] = map %x, %q => $0 - $1\n" STORE_Y,
    "%r: f32[_M_,1] = reduce sum axis 1 %x\n%q: f32[1,1] = reduce sum axis 0 %r\n"
    "%y: f32[_M_,_N_] = map %x, %q => $0 - $1\n" STORE_Y,
    LOAD_I
    "%r: i32[_M_,1] = reduce sum axis 1 %i\n%s: i32[1,_N_] = reduce min axis 0 %i\n"
    "store %r to ri[%z] rows 0 live %lm, %one\nstore %s to si[%z] columns 0 live %one, %ln\n",
    LOAD_I
    "%r: i32[_M_,1] = reduce max axis 1 %i\n%s: i32[1,_N_] = reduce sum axis 0 %i\n"
    "store %r to ri[%z] rows 0 live %lm, %one\nstore %s to si[%z] columns 0 live %one, %ln\n",
    "%m: bool[_M_,_N_] = map %x => $0 < -0.5\n%r: bool[_M_,1] = reduce any axis 1 %m\n"
    "%s: bool[1,_N_] = reduce all axis 0 %m\nstore %r to ro[%z] rows 0 live %lm, %one\n"
    "store %s to so[%z] columns 0 live %one, %ln\n",
    "%m: bool[_M_,_N_] = map %x => $0 < 1.75\n%r: bool[_M_,1] = reduce all axis 1 %m\n"
    "%s: bool[1,_N_] = reduce any axis 0 %m\nstore %r to ro[%z] rows 0 live %lm, %one\n"
    "store %s to so[%z] columns 0 live %one, %ln\n",
    /* a softmax: reductions and maps in turn */
    "%top: f32[_M_,1] = reduce max axis 1 %x\n%q: f32[_M_,_N_] = map %x, %top => exp($0 - $1)\n"
    "%r: f32[_M_,1] = reduce sum axis 1 %q\n%y: f32[_M_,_N_] = map %q, %r => $0 / $1\n" STORE_Y
        STORE_R,
    /* scans */
    "%y: f32[_M_,_N_] = scan sum axis 1 %x\n" STORE_Y,
    "%y: f32[_M_,_N_] = scan min axis 0 %x\n" STORE_Y,
    LOAD_I "%yi: i32[_M_,_N_] = scan max axis 1 %i\n" STORE_YI,
    "%m: bool[_M_,_N_] = map %x => $0 < -1.5\n%t: bool[_M_,_N_] = scan any axis 1 %m\n"
    "store %t to yo[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    /* shapes */
    "%t: f32[_N_,_M_] = transpose %x\nstore %t to yt[%z, %z] rows 0 columns 1 live %ln, %lm\n",
    "%t: f32[_N_,_M_] = transpose %x\n%t2: f32[_N_,_M_] = map %t => $0 + 1.0\n"
    "%y: f32[_M_,_N_] = transpose %t2\n" STORE_Y,
    LOAD_U "%t: f32[1,_M_] = transpose %u\n%q: f32[_M_,_M_] = map %u, %t => $0 - $1\n"
           "%r: f32[_M_,1] = reduce max axis 1 %q\n" STORE_R,
    LOAD_V "%t: f32[_N_,1] = transpose %v\n%r: f32[1,1] = reduce sum axis 0 %t\n"
           "store %r to s[%z] columns 0 live %one, %one\n",
    "%y: f32[_M_,_N_] = permute %x _REVERSED_\n" STORE_Y,
    "%q: f32[_M_,_N_] = map %x => $0 * 2.0\n%t: f32[_M_,_N_] = permute %q _REVERSED_\n"
    "%y: f32[_M_,_N_] = map %q, %t => $0 - $1\n" STORE_Y,
    LOAD_U "%y: f32[_M_,_N_] = broadcast %u\n" STORE_Y,
    LOAD_V "%t: f32[_M_,_N_] = broadcast %v\n%y: f32[_M_,_N_] = map %t, %x => $0 * $1\n" STORE_Y,
    LOAD_U "%q: f32[1,1] = reduce max axis 0 %u\n%y: f32[_M_,_N_] = broadcast %q\n" STORE_Y,
    LOAD_U "%y: f32[_M_,_N_] = scale_rows %x, %u\n" STORE_Y,
    /* conversions */
    "%q: f32[_M_,_N_] = map %x => $0 * 0.3\n%t: f16[_M_,_N_] = convert %q\n"
    "%y: f32[_M_,_N_] = convert %t\n" STORE_Y
    "store %t to yh[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    "%q: f32[_M_,_N_] = map %x => $0 * 0.3\n%t: bf16[_M_,_N_] = convert %q\n"
    "%y: f32[_M_,_N_] = convert %t\n" STORE_Y
    "store %q to yg[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    "%q: f32[_M_,_N_] = map %x => $0 * 7.3\n%yi: i32[_M_,_N_] = convert %q\n" STORE_YI
    "%m: bool[_M_,_N_] = convert %yi\nstore %m to yo[%z, %z] rows 0 columns 1 live %lm, %ln\n"
    "%y: f32[_M_,_N_] = convert %m\n" STORE_Y,
    LOAD_I "%y: f32[_M_,_N_] = convert %i\n" STORE_Y,
    /* half tiles are rounded wherever they come about */
    "%t: f16[_M_,_N_] = map %x => $0 * 0.3\n%r: f16[_M_,1] = reduce sum axis 1 %t\n"
    "%y: f32[_M_,_N_] = map %t => $0 * 1024.0\n" STORE_Y
    "%q: f32[_M_,1] = map %r => $0 * 1024.0\nstore %q to r[%z] rows 0 live %lm, %one\n",
    "%q: f32[_M_,_N_] = map %x => $0 * 0.3\n"
    "store %q to y2[%z, %z] rows 0 columns 1 live %lm, %ln\n"
    "%t: bf16[_M_,_N_] = load y2[%z, %z] rows 0 columns 1 live %lm, %ln\n"
    "%y: f32[_M_,_N_] = map %t => $0 * 1024.0\n" STORE_Y,
    LOAD_U "%t: bf16[_M_,_N_] = map %x => $0 * 0.7\n%q: bf16[_M_,_N_] = scale_rows %t, %u\n"
           "%y: f32[_M_,_N_] = map %q => $0 * 1024.0\n" STORE_Y,
    "%k: f16 = scalar => f * 0.1\n%t: f16[_M_,_N_] = splat %k\n%y: f32[_M_,_N_] = map %t, %k => "
    "$0 * 1024.0 + $1\n" STORE_Y,
    /* types in memory */
    "%t: f16[_M_,_N_] = load h[%z, %z] rows 0 columns 1 live %lm, %ln\n"
    "%y: f32[_M_,_N_] = map %t => $0 + 1.0\n" STORE_Y
    "store %t to yg[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    "%t: f32[_M_,_N_] = load g[%z, %z] rows 0 columns 1 live %lm, %ln\n"
    "%y: f32[_M_,_N_] = map %t => $0 + 1.0\n" STORE_Y
    "store %y to yh[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    "%t: i32[_M_,_N_] = load l[%z, %z] rows 0 columns 1 live %lm, %ln\n"
    "%yi: i32[_M_,_N_] = map %t => $0 * 3\n" STORE_YI
    "store %yi to yl[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    "%t: i32[_M_,_N_] = load c[%z, %z] rows 0 columns 1 live %lm, %ln\n"
    "%yi: i32[_M_,_N_] = map %t => $0 * 3\n" STORE_YI
    "store %yi to yc[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    "%t: bool[_M_,_N_] = load o[%z, %z] rows 0 columns 1 live %lm, %ln\n"
    "%q: bool[_M_,_N_] = map %t => not $0\n"
    "store %q to yo[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    /* accesses */
    "%t: f32[_N_,_M_] = load x[%z, %z] rows 1 columns 0 live %ln, %lm\n"
    "store %t to yt[%z, %z] rows 0 columns 1 live %ln, %lm\n",
    "store %x to yt[%z, %z] rows 1 columns 0 live %lm, %ln\n",
    "%t: f32[_N_,1] = load x[%one, %z] rows 1 live %ln, %one\n"
    "store %t to s[%z] rows 0 live %ln, %one\n",
    "%t: f32[1,_M_] = load x[%z, %one] columns 0 live %one, %lm\n"
    "store %t to r[%z] columns 0 live %one, %lm\n",
    "%k: index = scalar => long(lm) * 3L\n"
    "%t: f32[_M3_,_N_] = load e[%z, %z, %z] rows 0 group 1 by 3 columns 2 live %k, %ln\n"
    "%q: f32[_M3_,_N_] = map %t => $0 * 2.0\n"
    "store %q to ye[%z, %z, %z] rows 0 group 1 by 3 columns 2 live %k, %ln\n",
    "%k: index = scalar => long(lm) * 3L - 1L\n"
    "%t: f32[_M3_,1] = load e[%z, %z, %one] rows 0 group 1 by 3 live %k, %one\n"
    "%q: f32[_M3_,1] = map %t => $0 * 2.0\n"
    "store %q to ye[%z, %z, %z] rows 0 group 1 by 3 live %k, %one\n",
    "%t: f32[3,_N_] = load e[%one, %z, %z] group 1 by 3 columns 2 live %all, %ln\n"
    "store %t to ye[%z, %z, %z] group 1 by 3 columns 2 live %all, %ln\n",
    "accumulate %x to y[%z, %z] rows 0 columns 1 live %lm, %ln\n"
    "accumulate %x to y[%z, %z] rows 0 columns 1 live %all, %all\n",
    "%s: f32[1,_N_] = reduce sum axis 0 %x\naccumulate %s to s[%z] columns 0 live %one, %ln\n"
    "%r: f32[_M_,1] = reduce sum axis 1 %x\naccumulate %r to r[%z] rows 0 live %lm, %one\n",
    "accumulate %x to yh[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    LOAD_I "accumulate %i to yl[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    "%q: f32[_M_,_N_] = map %x => $0 + 0.5\nstore %q to y[%z, %z] rows 0 columns 1 live %lm, %ln\n"
    "%t: f32[_M_,_N_] = load y[%z, %z] rows 0 columns 1 live %lm, %ln\n"
    "%t2: f32[_M_,_N_] = map %t => $0 * 2.0\n"
    "store %t2 to y2[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    "%k: index = scalar => long(lm) - 1L\n"
    "%t: f32[_M_,_N_] = load y[%z, %z] rows 0 columns 1 live %lm, %ln\n"
    "%q: f32[_M_,_N_] = map %t => $0 * 2.0\n"
    "store %q to y[%one, %z] rows 0 columns 1 live %k, %ln\n",
    "store %x to y[%z, %z] rows 0 columns 1 live %lm, %ln\n"
    "%q: f32[_M_,_N_] = map %x, %rows, %columns => y[lm - 1 - min($1, lm - 1), $2] + $0\n"
    "store %q to y2[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    "limit_rows _M_ live %lm\n%q: f32[_M_,_N_] = map %x => $0 * 2.0\n"
    "%r: f32[_M_,1] = reduce sum axis 1 %q\n%s: f32[1,_N_] = reduce sum axis 0 %q\n"
    "%y: f32[_M_,_N_] = map %q, %r => $0 + $1\n" STORE_Y STORE_R STORE_S,
    /* checks */
    "check %rows, %columns site 1 => $0 != 1 or $1 != n, $0 * 100 + $1\n",
    LOAD_I "check %i, %rows, %columns site 0 => ($1 != 2 or $2 != 0) or $0 == 999, long($0) + 7L\n",
    "%k: i32 = scalar => n\ncheck %k site 1 => $0 < 0, $0\ncheck %k site 0 => $0 < 0, $0\n",
    "check %columns site 0 => $0 != n, $0\n",
    "check %rows site 0 => $0 + 1 < lm, $0\n",
    /* reads */
    "%yi: i32[_M_,_N_] = map %rows, %columns => i[$0, $1] + at[$0]\n" STORE_YI,
    LOAD_V "%a: i32[_M_,1] = load at[%z] rows 0 live %all, %all\n"
           "%y: f32[_M_,_N_] = map %a, %columns, %v => w[$0, $1] * $2\n" STORE_Y,
    "%y: f32[_M_,_N_] = map %rows, %columns => "
    "select(o[$0, $1], float(l[$0, $1]) + h[$0, $1], g[$0, $1]) + float(c[$0, 0])\n" STORE_Y,
    "%yi: i32[_M_,_N_] = map %columns, %rows => int(l.long[$1, $0] * 2L + i.long[$1, "
    "$0])\n" STORE_YI,
    "%k: index = scalar => l.long[0, 0] + i.long[0, 0] * 3L + long(c[0, 0])\n"
    "%q: i32 = scalar %k => int($0)\n%yi: i32[_M_,_N_] = map %q, %columns, %rows => $0 + $1 * "
    "$2\n" STORE_YI,
    /* binders */
    "%y: f32[_M_,_N_] = map %rows, %x => sum(@0 < ln, w[$0, @0]) * $1\n" STORE_Y,
    "%y: f32[_M_,_N_] = map %rows, %columns => sum(@0 < $1, w[$0, @0]) + u[$0]\n" STORE_Y,
    "%m: bool[_M_,_N_] = map %rows, %columns => any(@0 < $1, i[$0, @0] == i[$0, $1])\n"
    "store %m to yo[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    "%m: bool[_M_,_N_] = map %rows, %columns => all(@0 < $0 + 1, i[@0, $1] < 15)\n"
    "store %m to yo[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    "%y: f32[_M_,_N_] = map %rows, %columns => select($1 == 0, 0.0, fold_max(@0 < $1, w[$0, "
    "@0]))\n" STORE_Y,
    "%yi: i32[_M_,_N_] = map %rows, %columns => count(@0 < ln, i[$0, @0] < i[$0, $1]) + "
    "fold_min(@0 < lm, i[@0, $1])\n" STORE_YI,
    "%y: f32[_M_,_N_] = map %rows, %columns => "
    "sum(@0 < $1, w[$0, @0] * sum(@1 < @0, x[$0, @1])) + mean(@0 < ln, w[$0, @0])\n" STORE_Y,
    /* control */
    "%end: index = scalar => 7L\n%q: f32[_M_,_N_] = splat %two\n"
    "%p: f32[_M_,_N_], %t: f32[_M_,_N_] = for %j = %z to %end step 2 carry (%pc = %x, %tc = %q) {\n"
    "yield %tc, %pc\n}\nstore %p to y[%z, %z] rows 0 columns 1 live %lm, %ln\n"
    "store %t to y2[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    LOAD_W
    "%k: i32 = scalar => 3\n%end: index = scalar => 5L\n"
    "%p: f32[_M_,_N_], %q: f32[_M_,1], %s0: f32, %t: f32[_M_,_N_], %c: i32 = for %j = %z to %end "
    "step 1 carry (%pc = %x, %qc = %qs, %sc = %two, %tc = %w, %cc = %k) {\n"
    "%pn: f32[_M_,_N_] = map %pc, %qc => $0 + $1\n%qn: f32[_M_,1] = reduce max axis 1 %tc\n"
    "%sn: f32 = scalar %sc, %cc => $0 + float($1)\n%cn: i32 = scalar %cc, %j => $0 + int($1)\n"
    "%tn: f32[_M_,_N_] = map %pc, %sn => $0 - $1 * 0.25\nyield %pn, %qn, %sn, %tn, %cn\n}\n"
    "%y: f32[_M_,_N_] = map %p, %q, %s0, %c => $0 + $1 + $2 + float($3)\n" STORE_Y
    "store %t to y2[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    /* three sums of a loop: what threads have of the first can be added up after it */
    LOAD_U
    "%end: index = scalar => 3L\n%p: f32[_M_,1], %t: f32[_M_,1], %o: f32[_M_,1] = for %j = %z to "
    "%end step 1 carry (%pc = %u, %tc = %u, %oc = %u) {\n%ps: f32[_M_,1] = reduce sum axis 1 %x\n"
    "%ts: f32[_M_,1] = reduce sum axis 1 %x\n%os: f32[_M_,1] = reduce sum axis 1 %x\n"
    "%pn: f32[_M_,1] = map %pc, %u, %ps => $2 - $0 * $1 * 0.5\n"
    "%tn: f32[_M_,1] = map %tc, %ts => $0 * 0.5 + $1 + 1.0\n"
    "%on: f32[_M_,1] = map %oc, %os => $1 - abs($0) * 0.5\nyield %pn, %tn, %on\n}\n"
    "%y: f32[_M_,_N_] = map %columns, %p, %t, %o => "
    "select($0 % 3 < 1, $1, select($0 % 3 < 2, $2, $3))\n" STORE_Y,
    "%end: index = scalar => long(n)\n%y: f32[_M_,_N_] = for %j = %one to %end step 3 carry "
    "(%c = %x) {\n%q: f32[_M_,_N_] = map %c, %j => $0 + float($1)\nyield %q\n}\n" STORE_Y,
    "for %j = %z to %lm step 1 {\n%t: f32[1,_N_] = load x[%j, %z] columns 1 live %one, %ln\n"
    "%q: f32[1,_N_] = map %t, %j => $0 * 2.0 + float($1)\n"
    "store %q to y[%j, %z] columns 1 live %one, %ln\n}\n",
    "%k: bool = scalar => on\n%y: f32[_M_,_N_], %s0: f32 = if %k {\n"
    "%q: f32[_M_,_N_] = map %x => $0 * 2.0\nyield %q, %two\n} else {\nyield %x, %zero\n}\n"
    "%y3: f32[_M_,_N_] = map %y, %s0 => $0 + $1\n" STORE_Y
    "store %y3 to y2[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    "%k: bool = scalar => n < 0\nif %k {\nstore %x to y[%z, %z] rows 0 columns 1 live %lm, %ln\n"
    "} else {\nstore %x to y2[%z, %z] rows 0 columns 1 live %lm, %ln\n}\n",
    "%y: f32[_M_,_N_], %c: i32 = for_segments (%z, %lm), (%one, %ln) step 4 with (%one) carry "
    "(%x, %k0) may tile_j0 != $0 * 4L must tile_j1 < 9L full (%fj, %fa, %fc) {\n"
    "%q: f32[_M_,_N_] = map %fa, %fj => $0 + float($1)\n%fc2: i32 = scalar %fc => $0 + 1\n"
    "yield %q, %fc2\n} partial (%pj, %pa, %pc) {\nyield %pa, %pc\n}\n"
    "%y3: f32[_M_,_N_] = map %y, %c => $0 + float($1)\n"
    "store %y3 to y[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    /* products and what surrounds them */
    "%a: f32[_M_,_K_] = load a[%z, %z] rows 0 columns 1 live %lm, %all\n"
    "%b: f32[_K_,_N_] = load b[%z, %z] rows 0 columns 1 live %all, %ln\n"
    "%q: f32[_M_,_N_] = product %a, %b\n%r: f32[_M_,1] = reduce max axis 1 %q\n"
    "%y: f32[_M_,_N_] = map %q, %r, %x => $0 - $1 + $2\n" STORE_Y STORE_R,
    LOAD_U "%a: f32[_M_,_K_] = load a[%z, %z] rows 0 columns 1 live %lm, %all\n"
           "%b: f32[_K_,_N_] = load b[%z, %z] rows 0 columns 1 live %all, %ln\n"
           "%c: f32[_M_,_N_] = scale_rows %x, %u\n%y: f32[_M_,_N_] = product %a, %b, %c\n" STORE_Y,
    LOAD_U
    "%q: f32[_M_,_M_] = product %x, %x transposed\n%t: f32[_N_,_N_] = product %x transposed, "
    "%x\n%y: f32[_M_,_N_] = product %q, %x\n%y3: f32[_M_,_N_] = product %x, %t, %y\n"
    "store %y3 to y[%z, %z] rows 0 columns 1 live %lm, %ln\n",
    LOAD_W
    "%a: f16[_M_,_N_] = convert %x\n%b: f16[_M_,_N_] = convert %w\n"
    "%q: f32[_M_,_M_] = product %a, %b transposed\n%y: f32[_M_,_N_] = product %q, %x\n" STORE_Y,
    /* one tile read row-major and as panels in the same group */
    LOAD_W "%q: f32[_N_,_M_] = product %x transposed, %one_mm\n%t: f32[_M_,_N_] = map %x, %w => "
           "$0 + $1\n%y: f32[_M_,_N_] = map %x, %t => $0 * $1\n" STORE_Y
           "store %q to yt[%z, %z] rows 0 columns 1 live %ln, %lm\n",
    /* second operands that few rows read where they lie, and what is done as they are read */
    "%nn: index = scalar => _N_L\n%b: f32[_M_,_N_] = load h[%z, %z] rows 0 columns 1 live %lm, "
    "%nn\n"
    "%q: f32[_M_,_M_] = product %x, %b transposed\n%y: f32[_M_,_N_] = product %q, %b, %x\n" STORE_Y,
    LOAD_U LOAD_V
    "%nn: index = scalar => _N_L\n%b: f32[_M_,_N_] = load g[%z, %z] rows 0 columns 1 live %lm, "
    "%nn\n"
    "%t: f32[_M_,_N_] = map %b, %u, %v, %columns, %two => $0 * $1 + $2 * $4 - float($3)\n"
    "%q: f32[_M_,_M_] = product %x, %t transposed\n%r: f32[_M_,1] = reduce max axis 1 %q\n" STORE_R,
    LOAD_U LOAD_V
    "%nn: index = scalar => _N_L\n%i: i32[_M_,_N_] = load c[%z, %z] rows 0 columns 1 live %lm, "
    "%nn\n"
    "%t: f32[_M_,_N_] = convert %i\n%t2: f32[_M_,_N_] = map %t, %v, %rows => $0 * $1 + float($2)\n"
    "%c: f32[_M_,_N_] = scale_rows %x, %u\n%y: f32[_M_,_N_] = product %one_mm, %t2, %c\n" STORE_Y,
    "%nn: index = scalar => _N_L\n%k: index = scalar => long(lm) * 3L - 1L\n"
    "%t: f32[_M3_,_N_] = load e[%z, %z, %z] rows 0 group 1 by 3 columns 2 live %k, %nn\n"
    "%q: f32[_M_,_M3_] = product %x, %t transposed\n%r: f32[_M_,1] = reduce max axis 1 %q\n"
    "%y: f32[_M_,_N_] = product %q, %t\n" STORE_R STORE_Y,
    LOAD_U
    "%nn: index = scalar => _N_L\n%b: f32[_M_,_N_] = load h[%z, %z] rows 0 columns 1 live %lm, "
    "%nn\n%t: f32[_M_,_N_] = map %u, %b => $0 * $1\n%y: f32[_M_,_N_] = product %one_mm, "
    "%t\n" STORE_Y,
    /* a carried operand changes before the product, which must not see it */
    "%end: index = scalar => 2L\n%y: f32[_M_,_N_] = for %j = %z to %end step 1 carry (%c = %x) {\n"
    "%t: f32[_M_,_N_] = map %c => $0 * 2.0\n%q: f32[_M_,_N_] = map %c => $0 - 1.0\n"
    "%p2: f32[_M_,_M_] = product %x, %t transposed\n%r: f32[_M_,1] = reduce max axis 1 %p2\n"
    "store %r to r[%z] rows 0 live %lm, %one\nyield %q\n}\n" STORE_Y,
    "%a: f32[_M_,_K_] = load a[%z, %z] rows 0 columns 1 live %all, %all\n"
    "%b: f32[_N_,_K_] = load p[%z, %z] rows 0 columns 1 live %z, %z\n"
    "%q: f32[1,_K_] = reduce max axis 0 %a\n%s0: f32 = scalar => f\n"
    "%c: f32[_M_,_N_] = contract %a, %b, %q, %s0 => abs($0 - $1) * $2 + $3\n"
    "%y: f32[_M_,_N_] = map %c, %x => $0 + $1\n" STORE_Y,
    /* small enough that solving adds no more than the tolerance: 30 units of the last place, with
       0.125 it would be 200 */
    "%q: f32[_M_,_M_] = map %rows, %rt => select($1 < $0, float(($0 * 3 + $1 * 5) % 7 - 3) * "
    "0.0625, 9.0)\n%y: f32[_M_,_N_] = triangular_solve %q, %x\n" STORE_Y,
};

/* Lines that some bodies need, named by the value that they define. */
static const struct {
  const char *name, *text;
} extras[] = {
    {"%qs", "%qs: f32[_M_,1] = splat %two\n"},
    {"%k0", "%k0: i32 = scalar => 0\n"},
    {"%rt", "%rt: i32[1,_M_] = iota %z\n"},
    {"%one_mm",
     "%dm: i32[1,_M_] = iota %z\n%one_mm: f32[_M_,_M_] = map %rows, %dm => float($0 - $1)\n"},
};

static struct arena arena;

static void setup(void)
{
  arena_init(&arena);
}

static void teardown(void)
{
  arena_free(&arena);
}

struct sizes {
  int m, n, k;
};

/* The text with sizes filled in. */
static const char *instantiate(const char *text, struct sizes sizes)
{
  char *result = arena_alloc(&arena, 16 * strlen(text) + 8 * (size_t)sizes.n + 64);
  char *out = result;
  while (*text != '\0') {
    int used = 0;
    if (strncmp(text, "_M_", 3) == 0)
      used = sprintf(out, "%d", sizes.m);
    else if (strncmp(text, "_N_", 3) == 0)
      used = sprintf(out, "%d", sizes.n);
    else if (strncmp(text, "_K_", 3) == 0)
      used = sprintf(out, "%d", sizes.k);
    if (used != 0) {
      out += used;
      text += 3;
    } else if (strncmp(text, "_M3_", 4) == 0) {
      out += sprintf(out, "%d", 3 * sizes.m);
      text += 4;
    } else if (strncmp(text, "_REVERSED_", 10) == 0) {
      for (int k = 0; k < sizes.n; k++)
        out += sprintf(out, "%s%d", k == 0 ? "[" : ", ", sizes.n - 1 - k);
      out += sprintf(out, "]");
      text += 10;
    } else {
      *out++ = *text++;
    }
  }
  return result;
}

static const struct schedule schedules[] = {
    {0}, {.lanes = 4, .row_vectors = 1, .column_registers = 3}, {.row_vectors = 3}};
enum { SCHEDULES = sizeof(schedules) / sizeof(*schedules) };

static struct tile_array array(const char *name, enum dtype type, uint32_t rank, int64_t a,
                               int64_t b, int64_t c)
{
  int64_t sizes[] = {a, b, c};
  struct tile_array made = tile_array_new(name, type, rank, sizes, (int64_t[]){0, 2, 3});
  tile_array_fill(&made, (uint32_t)(a * 31 + b * 7 + c + name[0]));
  return made;
}

/* Runs the program with lm and ln whole, cut short and zero. */
static void run_bound(struct tile_code *code, const char *text, struct sizes sizes)
{
  int64_t m = sizes.m, n = sizes.n, k = sizes.k;
  for (int cut = 0; cut < 3; cut++) {
    struct tile_array arrays[] = {
        array("x", DTYPE_F32, 2, m, n, 0),   array("w", DTYPE_F32, 2, m, n, 0),
        array("a", DTYPE_F32, 2, m, k, 0),   array("b", DTYPE_F32, 2, k, n, 0),
        array("u", DTYPE_F32, 1, m, 0, 0),   array("v", DTYPE_F32, 1, n, 0, 0),
        array("e", DTYPE_F32, 3, m, 3, n),   array("i", DTYPE_I32, 2, m, n, 0),
        array("at", DTYPE_I32, 1, m, 0, 0),  array("h", DTYPE_F16, 2, m, n, 0),
        array("g", DTYPE_BF16, 2, m, n, 0),  array("l", DTYPE_I64, 2, m, n, 0),
        array("c", DTYPE_U8, 2, m, n, 0),    array("o", DTYPE_BOOL, 2, m, n, 0),
        array("y", DTYPE_F32, 2, m, n, 0),   array("y2", DTYPE_F32, 2, m, n, 0),
        array("yt", DTYPE_F32, 2, n, m, 0),  array("p", DTYPE_F32, 2, m, k, 0),
        array("r", DTYPE_F32, 1, m, 0, 0),   array("s", DTYPE_F32, 1, n, 0, 0),
        array("ye", DTYPE_F32, 3, m, 3, n),  array("yi", DTYPE_I32, 2, m, n, 0),
        array("ri", DTYPE_I32, 1, m, 0, 0),  array("si", DTYPE_I32, 1, n, 0, 0),
        array("yh", DTYPE_F16, 2, m, n, 0),  array("yg", DTYPE_BF16, 2, m, n, 0),
        array("yl", DTYPE_I64, 2, m, n, 0),  array("yc", DTYPE_U8, 2, m, n, 0),
        array("yo", DTYPE_BOOL, 2, m, n, 0), array("ro", DTYPE_BOOL, 1, m, 0, 0),
        array("so", DTYPE_BOOL, 1, n, 0, 0)};
    enum { COUNT = sizeof(arrays) / sizeof(*arrays) };
    for (int64_t q = 0; q < m; q++) /* rows, in another order */
      tile_array_set(&arrays[8], q, (double)((q * 5 + 3) % m));
    int64_t lm = cut == 0 ? m : cut == 1 ? (m + 1) / 2 : 0;
    int64_t ln = cut == 0 ? n : cut == 1 ? n - n / 3 : 0;
    struct tile_argument params[] = {
        {"lm", (double)lm}, {"ln", (double)ln}, {"n", 8}, {"f", 1.5}, {"on", cut == 1}};
    struct tile_launch launch = {arrays, COUNT, params, sizeof(params) / sizeof(*params), {0}};
    const char *error = tile_compare(&arena, code, &launch, 2e-6);
    ck_assert_msg(error == NULL, "M %d, N %d, K %d, cut %d: %s\n%s", sizes.m, sizes.n, sizes.k, cut,
                  error, text);
    for (size_t a = 0; a < COUNT; a++)
      tile_array_free(&arrays[a]);
  }
}

static void run_body(const char *body, bool row_major, struct sizes sizes,
                     const struct schedule *schedule)
{
  const char *needed = "";
  for (size_t k = 0; k < sizeof(extras) / sizeof(*extras); k++)
    if (strstr(body, extras[k].name) != NULL)
      needed = arena_format(&arena, "%s%s", needed, extras[k].text);
  const char *text = arena_format(&arena, "%s%s%s%s%s", head,
                                  row_major ? load_row_major : load_panel, needed, body, tail);
  text = instantiate(text, sizes);
  struct tile_code code;
  const char *error = tile_code_open(&code, text, schedule);
  ck_assert_msg(error == NULL, "M %d, N %d, K %d: %s\n%s", sizes.m, sizes.n, sizes.k, error, text);
  run_bound(&code, text, sizes);
  tile_code_close(&code);
}

/* Both layouts of the input in the first size; after it, and in other schedules, one of them. */
START_TEST(bodies_at_every_size)
{
  static const struct sizes sizes[] = {{40, 21, 4}, {16, 16, 8}, {1, 19, 5},
                                       {33, 1, 3},  {5, 3, 7},   {4, 32, 16}};
  for (size_t s = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
    if ((sizes[s].m < 2 || sizes[s].n < 2) && strstr(bodies[_i], "load x[%z, %one]") != NULL)
      continue;
    if (sizes[s].m < 2 && strstr(bodies[_i], "[%one,") != NULL)
      continue;
    for (int k = 0; k < (s == 0 ? SCHEDULES : 1); k++) {
      const bool row_major = ((size_t)_i + s + (size_t)k) % 2 == 1;
      run_body(bodies[_i], row_major, sizes[s], &schedules[k]);
      if (s == 0 && k == 0)
        run_body(bodies[_i], !row_major, sizes[s], &schedules[k]);
    }
    arena_free(&arena);
  }
}
END_TEST

/* One product with every choice of transposes and accumulator. */
static void run_product(struct sizes sizes, int variant, const struct schedule *schedule)
{
  bool turn_a = variant & 1, turn_b = variant & 2, splat = variant & 4, loaded = variant & 8;
  const char *text = arena_format(
      &arena,
      "kernel t tensor a f32[2] tensor b f32[2] tensor c f32[2] tensor y f32[2] written\n"
      "{\n%%tasks: index = scalar => 1L\nparallel (%%task) < (%%tasks) {\n%%z: index = scalar => "
      "0L\n"
      "%%all: index = scalar => 5000L\n%%half: f32 = scalar => 0.5\n"
      "%%a: f32[%s] = load a[%%z, %%z] rows 0 columns 1 live %%all, %%all\n"
      "%%b: f32[%s] = load b[%%z, %%z] rows 0 columns 1 live %%all, %%all\n"
      "%%c: f32[_M_,_N_] = %s\n%%y: f32[_M_,_N_] = product %%a%s, %%b%s%s\n"
      "store %%y to y[%%z, %%z] rows 0 columns 1 live %%all, %%all\n}\n}\n",
      turn_a ? "_K_,_M_" : "_M_,_K_", turn_b ? "_N_,_K_" : "_K_,_N_",
      splat ? "splat %half" : "load c[%z, %z] rows 0 columns 1 live %all, %all",
      turn_a ? " transposed" : "", turn_b ? " transposed" : "", splat || loaded ? ", %c" : "");
  text = instantiate(text, sizes);
  struct tile_code code;
  const char *error = tile_code_open(&code, text, schedule);
  ck_assert_msg(error == NULL, "%s\n%s", error, text);
  int64_t m = sizes.m, n = sizes.n, k = sizes.k;
  struct tile_array arrays[] = {array("a", DTYPE_F32, 2, turn_a ? k : m, turn_a ? m : k, 0),
                                array("b", DTYPE_F32, 2, turn_b ? n : k, turn_b ? k : n, 0),
                                array("c", DTYPE_F32, 2, m, n, 0),
                                array("y", DTYPE_F32, 2, m, n, 0)};
  struct tile_launch launch = {arrays, 4, NULL, 0, {0}};
  error = tile_compare(&arena, &code, &launch, 0);
  ck_assert_msg(error == NULL, "%s\n%s", error, text);
  for (int k4 = 0; k4 < 4; k4++)
    tile_array_free(&arrays[k4]);
  tile_code_close(&code);
}

START_TEST(products_of_every_form)
{
  for (unsigned turn = 0; turn < 18; turn++) {
    unsigned number = turn * 37u + (unsigned)_i * 11u;
    struct sizes sizes = {(int)(number * 7u % 40) + 1, (int)(number * 29u % 70) + 1,
                          (int)(number * 13u % 50) + 1};
    run_product(sizes, _i, &schedules[number % SCHEDULES]);
  }
}
END_TEST

/* Up to one more than the rows that are not put into panels; sizes that fill vectors and blocks,
 * and others. */
START_TEST(products_of_few_rows)
{
  static const int inner[] = {16, 37, 64, 7};
  for (int m = 1; m <= 9; m++) {
    struct sizes sizes = {m, m % 2 == 0 ? 48 : 27 + m, inner[m % 4]};
    run_product(sizes, _i, &schedules[m == 5 ? 1 : 0]);
  }
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("ops on the host");
  TCase *tests = tcase_create("bodies");
  tcase_add_checked_fixture(tests, setup, teardown);
  tcase_add_loop_test(tests, bodies_at_every_size, 0, sizeof(bodies) / sizeof(*bodies));
  tcase_add_loop_test(tests, products_of_every_form, 0, 16);
  tcase_add_loop_test(tests, products_of_few_rows, 0, 16);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
