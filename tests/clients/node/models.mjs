// A nested model that programs ask for: every value is an enum or a flag, so that a small model ends it soon.
import { z } from "zod";

export const Forecast = z.object({
  place: z.object({ city: z.enum(["Paris", "Rome"]), country: z.enum(["France", "Italy"]) }),
  unit: z.enum(["celsius", "fahrenheit"]),
  rain: z.boolean(),
});

export const City = z.object({ city: z.enum(["Paris", "Rome"]) });
