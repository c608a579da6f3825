//! A machine of 200 steps, written by a macro of the user's own.

#![allow(unused_must_use, reason = "no step goes to another one here")]

use gen_durable::prelude::*;

macro_rules! machine {
    ($($variant:ident $step:ident),* $(,)?) => {
        #[durable_fsm]
        enum Long {
            $($variant,)*
        }

        #[durable_fsm]
        impl Long {
            $(async fn $step(cx: Context<Self>) -> Outcome<Self> {
                cx.next(Long::$variant)
            })*
        }
    };
}

machine! {
    S0 s0, S1 s1, S2 s2, S3 s3, S4 s4, S5 s5, S6 s6, S7 s7, S8 s8, S9 s9,
    S10 s10, S11 s11, S12 s12, S13 s13, S14 s14, S15 s15, S16 s16, S17 s17, S18 s18, S19 s19,
    S20 s20, S21 s21, S22 s22, S23 s23, S24 s24, S25 s25, S26 s26, S27 s27, S28 s28, S29 s29,
    S30 s30, S31 s31, S32 s32, S33 s33, S34 s34, S35 s35, S36 s36, S37 s37, S38 s38, S39 s39,
    S40 s40, S41 s41, S42 s42, S43 s43, S44 s44, S45 s45, S46 s46, S47 s47, S48 s48, S49 s49,
    S50 s50, S51 s51, S52 s52, S53 s53, S54 s54, S55 s55, S56 s56, S57 s57, S58 s58, S59 s59,
    S60 s60, S61 s61, S62 s62, S63 s63, S64 s64, S65 s65, S66 s66, S67 s67, S68 s68, S69 s69,
    S70 s70, S71 s71, S72 s72, S73 s73, S74 s74, S75 s75, S76 s76, S77 s77, S78 s78, S79 s79,
    S80 s80, S81 s81, S82 s82, S83 s83, S84 s84, S85 s85, S86 s86, S87 s87, S88 s88, S89 s89,
    S90 s90, S91 s91, S92 s92, S93 s93, S94 s94, S95 s95, S96 s96, S97 s97, S98 s98, S99 s99,
    S100 s100, S101 s101, S102 s102, S103 s103, S104 s104, S105 s105, S106 s106, S107 s107, S108 s108, S109 s109,
    S110 s110, S111 s111, S112 s112, S113 s113, S114 s114, S115 s115, S116 s116, S117 s117, S118 s118, S119 s119,
    S120 s120, S121 s121, S122 s122, S123 s123, S124 s124, S125 s125, S126 s126, S127 s127, S128 s128, S129 s129,
    S130 s130, S131 s131, S132 s132, S133 s133, S134 s134, S135 s135, S136 s136, S137 s137, S138 s138, S139 s139,
    S140 s140, S141 s141, S142 s142, S143 s143, S144 s144, S145 s145, S146 s146, S147 s147, S148 s148, S149 s149,
    S150 s150, S151 s151, S152 s152, S153 s153, S154 s154, S155 s155, S156 s156, S157 s157, S158 s158, S159 s159,
    S160 s160, S161 s161, S162 s162, S163 s163, S164 s164, S165 s165, S166 s166, S167 s167, S168 s168, S169 s169,
    S170 s170, S171 s171, S172 s172, S173 s173, S174 s174, S175 s175, S176 s176, S177 s177, S178 s178, S179 s179,
    S180 s180, S181 s181, S182 s182, S183 s183, S184 s184, S185 s185, S186 s186, S187 s187, S188 s188, S189 s189,
    S190 s190, S191 s191, S192 s192, S193 s193, S194 s194, S195 s195, S196 s196, S197 s197, S198 s198, S199 s199,
}

fn main() {
    assert_eq!(Long::STEPS.len(), 200);
    assert_eq!(Long::STEPS[199], "s199");
}
