//! Speech quality after the E-model (ITU-T G.107), simplified: what a listener would say of a stream with a known codec,
//! loss and delay, all else at the defaults of G.107 table 2. Pure.
//!
//! R = R0 - Id - Ie,eff, and MOS from R (annex B). Left out: talker and listener echo (perfect cancellers are assumed),
//! noise and loudness other than the default, and the advantage factor A. So it is an estimate to sort streams by and to
//! see changes with, not a measurement.

/// R of a call with all parameters at their defaults: G.107 (12/2011) section 7.7 gives 93.2.
pub const R_DEFAULT: f64 = 93.2;

/// A codec's impairment and how it stands packet loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Impairment {
    /// Ie, the equipment impairment factor without loss.
    pub ie: f64,
    /// Bpl, the packet-loss robustness factor.
    pub bpl: f64,
}

/// G.711 with packet loss concealment, as all phones of today have it: G.113 (2007) appendix I, tables I.1 and I.4.
pub const G711: Impairment = Impairment { ie: 0.0, bpl: 25.1 };
/// G.711 without concealment, of the same tables: what a recording of raw packets would sound like.
#[cfg(test)]
const G711_BARE: Impairment = Impairment { ie: 0.0, bpl: 4.3 };
/// G.729 annex A with voice activity detection, the same tables.
pub const G729: Impairment = Impairment { ie: 11.0, bpl: 19.0 };
/// G.723.1 annex A at 6.3 kbit/s with voice activity detection, the same tables.
pub const G723: Impairment = Impairment { ie: 15.0, bpl: 16.1 };
/// GSM full rate: Ie of the same appendix. It gives no Bpl for it; that of GSM EFR is taken.
pub const GSM: Impairment = Impairment { ie: 20.0, bpl: 10.0 };

/// Ie,eff with random loss (BurstR = 1): G.107 section 7.5, equation 7-29. `loss` is a fraction from 0 to 1.
pub fn effective_impairment(codec: Impairment, loss: f64) -> f64 {
    let loss_percent = 100.0 * loss.clamp(0.0, 1.0);
    codec.ie + (95.0 - codec.ie) * loss_percent / (loss_percent + codec.bpl)
}

/// Idd, what too long a delay from mouth to ear costs: G.107 section 7.4, equations 7-27 and 7-28.
pub fn delay_impairment(one_way_ms: f64) -> f64 {
    if one_way_ms <= 100.0 {
        return 0.0;
    }
    let x = (one_way_ms / 100.0).log2();
    let sixth_root = |of: f64| of.powf(1.0 / 6.0);
    25.0 * (sixth_root(1.0 + x.powi(6)) - 3.0 * sixth_root(1.0 + (x / 3.0).powi(6)) + 2.0)
}

/// The transmission rating, 0 to 93.2.
pub fn rating(codec: Impairment, loss: f64, one_way_ms: f64) -> f64 {
    (R_DEFAULT - delay_impairment(one_way_ms) - effective_impairment(codec, loss)).max(0.0)
}

/// The mean opinion score, 1 to 4.5, of a rating: G.107 annex B, equation B-4. The polynomial dips a little below 1 for
/// ratings under 6.5, where 1 is meant.
pub fn mos(rating: f64) -> f64 {
    let r = rating.clamp(0.0, 100.0);
    (1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6).clamp(1.0, 4.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: f64, published: f64, within: f64) {
        assert!((value - published).abs() <= within, "{value} should be {published}");
    }

    /// G.107 annex B, table B.1: R and the MOS it stands for.
    #[test]
    fn mos_is_that_of_table_b_1() {
        for (r, published) in [(90.0, 4.34), (80.0, 4.03), (70.0, 3.60), (60.0, 3.10), (50.0, 2.58)] {
            near(mos(r), published, 0.0065);
        }
        near(mos(R_DEFAULT), 4.41, 0.005);
        assert_eq!((mos(0.0), mos(-20.0), mos(3.0), mos(100.0), mos(140.0)), (1.0, 1.0, 1.0, 4.5, 4.5));
    }

    /// Ie under loss as earlier editions of G.113 tabulated it from listening tests, before there was a formula.
    #[test]
    fn loss_impairs_as_g_113_has_it() {
        for (codec, loss, published, within) in [
            (G711, 0.0, 0.0, 0.0),
            (G711, 0.01, 5.0, 1.5),
            (G711, 0.02, 7.0, 0.5),
            (G711, 0.03, 10.0, 0.5),
            (G711, 0.05, 15.0, 1.0),
            (G729, 0.0, 11.0, 0.0),
            (G729, 0.01, 15.0, 0.5),
            (G729, 0.02, 19.0, 0.5),
            (G729, 0.04, 26.0, 0.7),
            (G723, 0.0, 15.0, 0.0),
            (G723, 0.01, 19.0, 0.7),
            (G723, 0.02, 24.0, 0.5),
            (G723, 0.04, 32.0, 1.5),
            (G711_BARE, 0.01, 25.0, 8.0),
        ] {
            near(effective_impairment(codec, loss), published, within);
        }
        near(effective_impairment(G711, 7.0), 95.0 * 100.0 / 125.1, 1e-9);
    }

    /// Points of the curve of Idd: none up to 100 ms, and what equation 7-27 gives where it is easy to reckon by hand.
    #[test]
    fn delay_costs_nothing_up_to_100_ms_and_then_more_and_more() {
        assert_eq!((delay_impairment(0.0), delay_impairment(100.0)), (0.0, 0.0));
        // Ta = 200: X = 1. Ta = 400: X = 2.
        near(
            delay_impairment(200.0),
            25.0 * (2f64.powf(1.0 / 6.0) - 3.0 * (730.0f64 / 729.0).powf(1.0 / 6.0) + 2.0),
            1e-9,
        );
        near(
            delay_impairment(400.0),
            25.0 * (65f64.powf(1.0 / 6.0) - 3.0 * (793.0f64 / 729.0).powf(1.0 / 6.0) + 2.0),
            1e-9,
        );
        let along: Vec<f64> = (0..60).map(|step| delay_impairment(f64::from(step) * 20.0)).collect();
        assert!(along.windows(2).all(|two| two[0] <= two[1]), "{along:?}");
        // G.114 figure 1: very satisfied up to some 200 ms, satisfied to some 300 ms, many dissatisfied beyond 550 ms.
        assert!(rating(G711, 0.0, 200.0) > 90.0);
        assert!((80.0..90.0).contains(&rating(G711, 0.0, 280.0)));
        assert!(rating(G711, 0.0, 600.0) < 70.0);
    }

    #[test]
    fn a_rating_ends_at_zero() {
        assert_eq!(rating(GSM, 1.0, 1_000.0), 0.0);
        near(rating(G711, 0.0, 60.0), 93.2, 1e-9);
    }
}
